"""The subcommands of `criticrm` that the service brings, one a file, named as they are typed."""
