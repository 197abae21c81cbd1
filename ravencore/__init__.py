"""What every room shares: records, their codec, topics, Kafka clients, configuration, errors, retry, metrics."""

__version__ = "0.1.0"
