"""Model-based reinforcement learning and control through differentiable MuJoCo, in PyTorch."""

from mbrl.algorithms import (
    ContinuousOMD,
    DiscreteOMD,
    FitDynamics,
    LearnedMPC,
    ModelPredictiveControl,
    PolicyGradient,
    TabularOMD,
    TrajectoryOptimization,
)
from mbrl.config import load_config
from mbrl.errors import MbrlError
from mbrl.finished_runs import load_policy
from mbrl.graph import SHIPPED, build_graph
from mbrl.nn import (
    DeterministicMLP,
    EnsembleDynamics,
    GaussianMLP,
    MLPDynamics,
    OpenLoop,
    load_dynamics,
)
from mbrl.ops import MujocoDynamics, MujocoRollout, ParametricDynamics
from mbrl.physics import ModelParameters, Simulator
from mbrl.planning import (
    CEM,
    CMAES,
    ICEM,
    ILQR,
    MPPI,
    GradientShooting,
    PlanNode,
    PredictiveSampling,
    RandomShooting,
    Variational,
)
from mbrl.registry import ALGORITHMS, DYNAMICS, NODES, PLANNERS, POLICIES, TASKS
from mbrl.runner import run
from mbrl.tasks import (
    make_task,
    register_cartpole,
    register_reaching,
    register_residual,
    register_smooth,
    register_tabular,
    register_torso,
    register_tracking,
)

__all__ = [
    "MbrlError",
    "ModelParameters",
    "MujocoDynamics",
    "MujocoRollout",
    "ParametricDynamics",
    "Simulator",
    "build_graph",
    "load_config",
    "load_dynamics",
    "load_policy",
    "make_task",
    "register_algorithm",
    "register_dynamics",
    "register_node",
    "register_planner",
    "register_policy",
    "register_task",
    "run",
]

register_task = TASKS.register
register_node = NODES.register
register_policy = POLICIES.register
register_dynamics = DYNAMICS.register
register_planner = PLANNERS.register
register_algorithm = ALGORITHMS.register

for _name, _node in SHIPPED.items():
    register_node(_name)(_node)
register_node("mpc")(PlanNode)
register_policy("deterministic_mlp")(DeterministicMLP)
register_policy("gaussian_mlp")(GaussianMLP)
register_policy("open_loop")(OpenLoop)
register_dynamics("mlp")(MLPDynamics)
register_dynamics("ensemble")(EnsembleDynamics)
register_planner("ilqr")(ILQR)
register_planner("random_shooting")(RandomShooting)
register_planner("predictive_sampling")(PredictiveSampling)
register_planner("cem")(CEM)
register_planner("icem")(ICEM)
register_planner("mppi")(MPPI)
register_planner("cma_es")(CMAES)
register_algorithm("policy_gradient")(PolicyGradient)
register_algorithm("trajectory_optimization")(TrajectoryOptimization)
register_algorithm("mpc")(ModelPredictiveControl)
register_algorithm("fit_dynamics")(FitDynamics)
register_algorithm("learned_mpc")(LearnedMPC)
register_algorithm("omd")(DiscreteOMD)
register_algorithm("omd_sac")(ContinuousOMD)
register_algorithm("omd_tabular")(TabularOMD)
register_planner("gradient_shooting")(GradientShooting)
register_planner("variational")(Variational)
register_smooth()
register_cartpole()
register_tabular()
register_torso()
register_reaching()
register_tracking()
register_residual()
