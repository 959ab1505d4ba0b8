"""Stand-ins for the commands of OpenPBS: qsub, qdel, qstat, qselect, pbsdsh and pbs_tmrsh.

They fail where OpenPBS fails, and have its manners that surprise launchers: a bare environment in $HOME,
tasks on other hosts that outlive the command that started them, output that cannot be redirected, SIGTERM to
all processes of the job's sessions on its first host only, SIGKILL `kill_delay` later. There is no server:
qsub starts a process for each job (`mom.py`), and the commands share files in the site's folder (`site.py`).
"""
