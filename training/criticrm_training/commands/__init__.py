"""The `criticrm` commands of this package, a file each. Light: what needs torch is imported when one runs."""
