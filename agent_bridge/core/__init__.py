"""The pure core of the agent gate: drafts, co-signatures, policy, receipts.

No I/O, no clock, no randomness, no logging: bytes and values in, values out.
protocol: docs/cosign-protocol.md
"""
