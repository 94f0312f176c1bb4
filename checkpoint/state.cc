#include "checkpoint/state.h"

#include <sys/stat.h>

namespace amber::state {

uint64_t Saver::Ref(const Saveable* object) {
  if (object == nullptr) return 0;
  auto [it, is_new] = ids_.try_emplace(object, next_id_);
  if (is_new) {
    ++next_id_;
    queue_.push_back(object);
  }
  return it->second;
}

uint64_t Saver::File(int fd, uint64_t size) {
  for (const FileContents& f : files_) {
    if (f.fd == fd) return f.id;
  }
  files_.push_back({files_.size() + 1, fd, size});
  return files_.back().id;
}

void Saver::Run(const Saveable* root) {
  Ref(root);
  while (!queue_.empty()) {
    const Saveable* object = queue_.front();
    queue_.pop_front();
    std::string problem = object->CannotSave();
    if (!problem.empty()) problems_.push_back(std::move(problem));
    records_.push_back({ids_.at(object), object->kind(), object->Save(*this)});
  }
}

Loader::~Loader() {
  if (!error_.empty()) {
    // What was refused half-way is not taken apart: destructors count on what the other objects would have become. The sandbox that it was for ends.
    static auto* refused = new std::deque<decltype(objects_)>;
    refused->push_back(std::move(objects_));
    return;
  }
  // File systems go last: inodes and names know theirs by a plain pointer, and may be held by nobody else now.
  std::vector<const Created*> file_systems;
  for (auto& [id, created] : objects_) {
    Kind kind = created.object->kind();
    if (kind >= Kind::kGoferFileSystem && kind < Kind::kGoferInode) {
      file_systems.push_back(&created);
    } else {
      created.drop();
    }
  }
  for (const Created* fs : file_systems) fs->drop();
}

bool Loader::Fail(std::string why) {
  if (error_.empty()) error_ = std::move(why);
  return false;
}

Saveable* Loader::Find(uint64_t id) {
  auto it = objects_.find(id);
  return it == objects_.end() ? nullptr : it->second.object;
}

bool Loader::Run(const std::vector<Saver::Record>& records) {
  for (const Saver::Record& r : records) {
    if (r.id != 0 && r.id == provided_) {
      if (r.kind != Find(r.id)->kind()) return Fail("the first object is not the kernel");
      continue;
    }
    Factory factory = FactoryOf(r.kind);
    if (factory == nullptr) {
      return Fail("the image holds objects of kind " + std::to_string(static_cast<uint32_t>(r.kind)) +
                  ", which this version does not know; restore it with the version that wrote it, or a newer one");
    }
    if (r.id == 0 || objects_.contains(r.id)) return Fail("object " + std::to_string(r.id) + " appears twice");
    objects_.emplace(r.id, factory());
  }
  for (const Saver::Record& r : records) {
    if (!Find(r.id)->Load(*this, r.bytes) || !error_.empty()) {
      return Fail("object " + std::to_string(r.id) + " of kind " + std::to_string(static_cast<uint32_t>(r.kind)) + " is malformed");
    }
  }
  for (const Saver::Record& r : records) {
    if (!Find(r.id)->AfterLoad(*this) || !error_.empty()) {
      return Fail("object " + std::to_string(r.id) + " of kind " + std::to_string(static_cast<uint32_t>(r.kind)) + " could not be brought back");
    }
  }
  return true;
}

}  // namespace amber::state
