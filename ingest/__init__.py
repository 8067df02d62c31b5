"""The HTTP door: takes a request, makes it durable, answers, and relays it to Kafka."""
