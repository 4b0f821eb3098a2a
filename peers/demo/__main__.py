"""`python -m peers.demo`: the demo without the rest of the command line."""

import argparse
import sys

from peers.demo import add_arguments, run

parser = argparse.ArgumentParser(
    "python -m peers.demo", description=sys.modules["peers.demo"].__doc__
)
add_arguments(parser)
sys.exit(run(parser.parse_args()))
