"""Judges: protocol, chat client, ledger, prices, official prompts."""
