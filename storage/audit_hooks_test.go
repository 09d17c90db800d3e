package storage

// AuditRotating makes segments of this size, in bytes; 0: the default.
func AuditRotating(bytes int64) AuditOptions { return AuditOptions{rotate: bytes} }
