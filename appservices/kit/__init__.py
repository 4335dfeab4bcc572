"""What every appservice needs: registration, a durable listener, intents, commands.

spec: application-service-api, v1.19
Nothing here knows a particular bot or bridge.
"""
