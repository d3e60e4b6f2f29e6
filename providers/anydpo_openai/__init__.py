"""openai: see provider.py and, for the emulator on loopback, sandbox.py."""
