"""Who does the pieces of a study: this process, several processes, or a Ray cluster."""

from mnemoscope.study.engines.base import Engine
from mnemoscope.study.engines.on_ray import RayCluster
from mnemoscope.study.engines.one_process import OneProcess
from mnemoscope.study.engines.processes import Processes

__all__ = ["Engine", "OneProcess", "Processes", "RayCluster"]
