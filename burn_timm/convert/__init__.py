"""Published checkpoints (ReActNet, S2-BNN, BURN, self-supervised teachers) as folders that timm loads."""

from .detect import NAMES as NAMES
from .detect import convert_source as convert_source
from .source import read_source as read_source
from .source import source_of as source_of
from .write import build as build
from .write import write_folder as write_folder
