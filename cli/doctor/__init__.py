"""`armfleet doctor`: pure checks over facts (`*_checks.py`), gatherers of them (`look_at_*.py`), a report."""
