"""What the gateway costs, measured: `python -m benchmarks [names] [--quick] [--json FILE]`."""
