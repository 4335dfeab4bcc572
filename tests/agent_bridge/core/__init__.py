"""Tests of the gate's pure core."""
