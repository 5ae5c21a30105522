"""Arm, leader and cameras: LeRobot drivers made safe for an unattended service."""
