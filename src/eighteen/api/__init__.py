"""The program as Python functions, with the names and defaults of the command line. ``eighteen`` exports them.

pack -> open -> train -> load -> predict: each takes a path, or what the one before it returned.
"""

from eighteen.api.advice import doctor
from eighteen.api.results import eval_folder, evaluate, load, preview
from eighteen.api.sources import beside, open, pack
from eighteen.api.training import resume, stop, train

__all__ = ["beside", "doctor", "eval_folder", "evaluate", "load", "open", "pack", "preview", "resume", "stop", "train"]
