"""The request bot: people type `!run …` in a chat room, the gate is asked, the answer is shown.

It relays and decides nothing: what may run is settled between the gate and the approvers, in a room
this bot is never in.
"""
