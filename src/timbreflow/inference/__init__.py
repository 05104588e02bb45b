"""From a content and a style recording to a new one: any length, in constant memory."""
