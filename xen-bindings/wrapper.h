/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * What the crate xenctrl-sys does not carry: the vm_event ring, the saved CPU
 * record, and the libraries with a stable soname beside libxenctrl.
 */
#define __XEN_TOOLS__ 1
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <xen/xen.h>
#include <xen/vm_event.h>
#include <xen/hvm/save.h>
#include <xen/hvm/params.h>
#include <xenforeignmemory.h>
#include <xenevtchn.h>
#include <xendevicemodel.h>
#include <xenstore.h>
#include <xentoollog.h>

/* bindgen cannot evaluate HVM_SAVE_CODE(), which is a sizeof; an enum it can. */
enum xmesh_save_code { XMESH_SAVE_CODE_CPU = HVM_SAVE_CODE(CPU) };
