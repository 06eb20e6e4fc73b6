#include "vsp/storage/block/open_image.h"

#include <utility>

#include "vsp/storage/block/vhdx/layout.h"
#include "vsp/storage/block/vhdx/vhdx_disk.h"
#include "vsp/storage/raw_file.h"

namespace partita::storage {

std::string_view FormatName(ImageFormat format) {
  switch (format) {
    case ImageFormat::kRaw:
      return "raw";
    case ImageFormat::kVhdx:
      return "vhdx";
  }
  return "";
}

ImageFormat DetectFormat(const ImageReader& file) {
  return vhdx::LooksLikeVhdx(file) ? ImageFormat::kVhdx : ImageFormat::kRaw;
}

absl::StatusOr<MappedFile> OpenMappedFile(UniqueFd fd, bool read_only) {
  ASSIGN_OR_RETURN(DescriptorFile image, DescriptorFile::Create(fd.get()));
  ASSIGN_OR_RETURN(std::unique_ptr<RawFile> data,
                   RawFile::Create(std::move(fd), {.read_only = read_only, .any_size = true}));
  return MappedFile{.data = std::move(data), .image = std::make_unique<DescriptorFile>(image)};
}

absl::StatusOr<std::unique_ptr<BlockBackend>> OpenImage(std::vector<UniqueFd> chain,
                                                        const ImageOptions& options) {
  if (options.format == ImageFormat::kRaw) {
    if (chain.size() != 1) return InvalidArgument("a raw disk has no parent");
    return RawFile::Create(std::move(chain[0]), {.read_only = options.read_only,
                                                 .direct = options.direct,
                                                 .logical_block = options.logical_block});
  }
  if (options.direct) {
    return InvalidArgument("a disk image cannot be used with direct I/O (cache=none) yet");
  }
  std::vector<MappedFile> files;
  for (UniqueFd& fd : chain) {
    ASSIGN_OR_RETURN(MappedFile file,
                     OpenMappedFile(std::move(fd), options.read_only || !files.empty()));
    files.push_back(std::move(file));
  }
  return vhdx::VhdxDisk::Open(std::move(files), options.read_only);
}

}  // namespace partita::storage
