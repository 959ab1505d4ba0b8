"""The long forms of the service's tests: `make test-service`."""
