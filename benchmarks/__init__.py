"""Speed, time to accuracy and memory, measured: one module a question, results beside them.

Run from the root of the checkout: `python -m benchmarks` for all of it, `python -m benchmarks.throughput` for one part.
"""
