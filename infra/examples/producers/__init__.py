"""Producers that need nothing of relevo but Kafka: to be copied. Each keeps its id, and reads what became of it."""
