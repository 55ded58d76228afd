"""On real SPIRE: L4 through a pair."""

from harness.scenario import main
from harness.spire import SpireMesh
from scenarios.tcp_pair import run

if __name__ == "__main__":
    main(run, SpireMesh)
