"""Kafka, QuestDB, PostgreSQL and Raven's own services on this machine, without Docker."""
