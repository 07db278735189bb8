"""Model-based reinforcement learning and control through differentiable MuJoCo, in PyTorch."""
