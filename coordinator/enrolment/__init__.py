"""Certificate authority, join bundles and the enrolment call."""
