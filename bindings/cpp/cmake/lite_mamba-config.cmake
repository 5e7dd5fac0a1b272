# find_package(lite_mamba), for C and for C++. Relocatable: everything is found from where this file is,
# PREFIX/LIBDIR/cmake/lite_mamba.
#
#     lite_mamba::lite_mamba   the shared library, or the static one where only that is installed
#     lite_mamba::static       the static library, if it is installed, and what it needs of the system
#
# SPDX-License-Identifier: Apache-2.0

get_filename_component(_lite_mamba_lib "${CMAKE_CURRENT_LIST_DIR}/../.." REALPATH)
get_filename_component(_lite_mamba_prefix "${_lite_mamba_lib}" DIRECTORY)
if(NOT EXISTS "${_lite_mamba_prefix}/include/lite_mamba.h") # LIBDIR is lib/TRIPLET
  get_filename_component(_lite_mamba_prefix "${_lite_mamba_prefix}" DIRECTORY)
endif()

if(WIN32)
  set(_lite_mamba_shared "${_lite_mamba_prefix}/bin/lite_mamba.dll")
  set(_lite_mamba_static "${_lite_mamba_lib}/lite_mamba_static.lib")
  set(_lite_mamba_system kernel32 ntdll userenv ws2_32)
else()
  set(_lite_mamba_shared "${_lite_mamba_lib}/liblite_mamba${CMAKE_SHARED_LIBRARY_SUFFIX}")
  set(_lite_mamba_static "${_lite_mamba_lib}/liblite_mamba.a")
  set(_lite_mamba_system Threads::Threads ${CMAKE_DL_LIBS} m)
endif()

if(EXISTS "${_lite_mamba_static}" AND NOT TARGET lite_mamba::static)
  if(NOT WIN32)
    include(CMakeFindDependencyMacro)
    find_dependency(Threads)
  endif()
  add_library(lite_mamba::static STATIC IMPORTED)
  set_target_properties(lite_mamba::static PROPERTIES
    IMPORTED_LOCATION "${_lite_mamba_static}"
    INTERFACE_INCLUDE_DIRECTORIES "${_lite_mamba_prefix}/include"
    INTERFACE_COMPILE_DEFINITIONS LM_STATIC
    INTERFACE_LINK_LIBRARIES "${_lite_mamba_system}")
endif()

if(NOT TARGET lite_mamba::lite_mamba)
  if(EXISTS "${_lite_mamba_shared}")
    add_library(lite_mamba::lite_mamba SHARED IMPORTED)
    set_target_properties(lite_mamba::lite_mamba PROPERTIES
      IMPORTED_LOCATION "${_lite_mamba_shared}"
      IMPORTED_IMPLIB "${_lite_mamba_lib}/lite_mamba.lib" # read on Windows only
      INTERFACE_INCLUDE_DIRECTORIES "${_lite_mamba_prefix}/include")
  elseif(TARGET lite_mamba::static)
    add_library(lite_mamba::lite_mamba INTERFACE IMPORTED)
    set_target_properties(lite_mamba::lite_mamba PROPERTIES INTERFACE_LINK_LIBRARIES lite_mamba::static)
  else()
    set(lite_mamba_FOUND FALSE)
    set(lite_mamba_NOT_FOUND_MESSAGE "neither ${_lite_mamba_shared} nor ${_lite_mamba_static} exists")
  endif()
endif()

unset(_lite_mamba_lib)
unset(_lite_mamba_prefix)
unset(_lite_mamba_shared)
unset(_lite_mamba_static)
unset(_lite_mamba_system)
