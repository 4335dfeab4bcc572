"""Tests of the benchmarks' reckoning; the measurements themselves are no tests."""
