// Who may send signals to whom.
#pragma once

namespace amber {

class Task;

// check_kill_permission() of Linux: within a process; the same user, or CAP_KILL; SIGCONT within the session; and landlock's word.
bool MaySignal(Task& task, Task& target, int signo);

}  // namespace amber
