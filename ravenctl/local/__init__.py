"""Kafka, QuestDB, PostgreSQL, Redis and Raven's own services on this machine, without Docker."""
