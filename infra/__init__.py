"""The wiring: settings, clients, telemetry, lifecycle, the command line. Knows servers, knows no use case."""
