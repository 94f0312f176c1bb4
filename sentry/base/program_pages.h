// The pages of this program's own file that are mapped and not needed.
#pragma once

namespace amber {

// Unmaps what has been touched of the program's code and constants; what is needed again comes back from the page cache, at the cost of a minor
// fault for 16 pages. For the moment when a start is over: most of what runs in it never runs again, and an idle sandbox would be charged
// with it for ever.
void ReleaseProgramPages();

}  // namespace amber
