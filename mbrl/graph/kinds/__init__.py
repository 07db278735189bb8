"""Node kinds that know no physics: they combine, remember and choose values."""

from mbrl.graph.kinds.combine import Concat, Select, Sum
from mbrl.graph.kinds.control import Assemble, LinearFeedback
from mbrl.graph.kinds.time import History, Hold, Phase
from mbrl.graph.node import Node

KINDS: dict[str, type[Node]] = {
    "assemble": Assemble,
    "concat": Concat,
    "history": History,
    "hold": Hold,
    "linear_feedback": LinearFeedback,
    "phase": Phase,
    "select": Select,
    "sum": Sum,
}
