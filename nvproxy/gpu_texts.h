// Texts of the driver as a guest may read them.
#pragma once

#include <string>
#include <string_view>

namespace amber::nvproxy {

// /proc/driver/nvidia/params, with "ModifyDeviceFiles: 0", so that nobody in the guest runs nvidia-modprobe, and without the registry keys of the host.
std::string GuestParams(std::string_view text);

// Of a GPU that is asked for and that Options::devices does not name.
std::string NotAllowed(const std::string& name);

}  // namespace amber::nvproxy
