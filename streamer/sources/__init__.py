"""Where frames come from; the only place that knows PyAV."""
