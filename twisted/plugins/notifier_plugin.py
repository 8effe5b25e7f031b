"""Makes `twistd notifier` known. Imports nothing of ours: no reactor is installed while twistd looks."""

from twisted.application.service import ServiceMaker

notifier = ServiceMaker("notifier", "notifier.service", "Real-time notification server", "notifier")
