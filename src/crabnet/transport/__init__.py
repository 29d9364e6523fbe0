"""Moves datagrams between nodes. The protocol package interprets and verifies them."""
