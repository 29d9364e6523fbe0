"""Policies that buy, sell and judge: functions of facts, settings and ``now`` (ADR 44). Pure."""
