# Start-up code of the enlightened guest: PVH entry, application processors, interrupt and system-call
# stubs. Ring 0 is kept as short as possible: some hosts interpret it (platform: paravirtual KVM).
.intel_syntax noprefix

.section .note.pvh, "a"
  .long 4, 4, 18                 # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .long pvh_entry

.section .bss
.balign 4096
.global page_map
page_map: .skip 4096             # PML4: one entry
page_directory: .skip 4096       # below 4 GiB by 2 MiB pages; above by 1 GiB pages, which some hosts lack
low_pages: .skip 4096 * 4        # everything is open to ring 3

.section .data
.balign 16
boot_gdt:
  .quad 0
  .quad 0x00AF9B000000FFFF       # 0x08: ring 0 code, 64 bits
  .quad 0x00CF93000000FFFF       # 0x10: data
boot_gdt_end:
boot_gdt_pointer:
  .word boot_gdt_end - boot_gdt - 1
  .quad boot_gdt

.section .text.start, "ax"
.code32
.global pvh_entry
pvh_entry:
  mov esp, offset kernel_stacks + 16384
  mov eax, offset page_directory
  or eax, 7
  mov [page_map], eax
  mov edi, offset low_pages
  mov eax, 0x87                  # present, writable, user, large page
  mov ecx, 2048
1: mov [edi], eax
  add edi, 8
  add eax, 0x200000
  loop 1b
  mov edi, offset page_directory
  mov eax, offset low_pages
  or eax, 7
  mov ecx, 4
2: mov [edi], eax
  add edi, 8
  add eax, 4096
  loop 2b
  mov eax, 0x87
  mov edx, 1
  mov ecx, 508
3: mov [edi], eax
  mov [edi + 4], edx
  add edi, 8
  add eax, 0x40000000
  adc edx, 0
  loop 3b
  call enter_long_mode
  .byte 0xEA                     # far jump into 64-bit code
  .long start64
  .word 0x08
enter_long_mode:
  mov eax, cr4
  or eax, 0x620                  # PAE, OSFXSR, OSXMMEXCPT
  mov cr4, eax
  mov eax, offset page_map
  mov cr3, eax
  mov ecx, 0xC0000080            # EFER.LME
  rdmsr
  or eax, 0x100
  wrmsr
  mov eax, cr0
  and eax, 0xFFFFFFFB            # no x87 emulation
  or eax, 0x80000003             # paging, monitor coprocessor, protection
  mov cr0, eax
  lgdt [boot_gdt_pointer]
  ret

.code64
start64:
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov rsp, offset kernel_stacks + 16384
  mov edi, ebx
  call kernel_main
  hlt

# --- application processors: copied to 0x8000, started there in real mode ---
.code16
.global ap_trampoline, ap_trampoline_end
ap_trampoline:
  cli
  xor ax, ax
  mov ds, ax
  lgdtd [0x8000 + ap_gdt_pointer - ap_trampoline]
  mov eax, cr0
  or eax, 1
  mov cr0, eax
  .byte 0x66, 0xEA               # far jump into 32-bit code
  .long 0x8000 + ap32 - ap_trampoline
  .word 0x08
.code32
ap32:
  mov ax, 0x10
  mov ds, ax
  mov ss, ax
  mov esp, 0x8F00
  mov eax, offset enter_long_mode
  call eax
  .byte 0xEA
  .long ap64
  .word 0x08
.balign 8
ap_gdt:
  .quad 0
  .quad 0x00CF9B000000FFFF
  .quad 0x00CF93000000FFFF
ap_gdt_pointer:
  .word 23
  .long 0x8000 + ap_gdt - ap_trampoline
ap_trampoline_end:

.code64
ap64:
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov rsp, [starting_stack]
  call kernel_ap_main
  hlt

# --- into ring 3: rdi = function, rsi = its argument, rdx = its stack ---
.global enter_user
enter_user:
  mov rax, rdi
  mov rdi, rsi
  push 0x1B                      # user data
  push rdx
  push 0x202                     # interrupts on
  push 0x23                      # user code
  push rax
  mov cx, 0x1B
  mov ds, cx
  mov es, cx
  iretq

# --- SINT 2: count it for this VP (the counter lies at the base of its kernel stack), end it. An interrupt
# taken at the hlt itself, which sti should hold back until hlt has begun, ends the hlt too: the software CPU of
# the lab lets one through now and then (docs/quirks.md). ---
.global sint_stub
sint_stub:
  push rax
  push rcx
  push rdx
  mov rax, rsp
  and rax, -16384
  inc qword ptr [rax]
  cmp qword ptr [rsp + 24], offset halt_at
  jne 1f
  inc qword ptr [rsp + 24]
1: cmp byte ptr [sint_auto_eoi], 0  # the parent ends it
  jne 2f
  mov ecx, 0x80B                 # x2APIC EOI
  xor eax, eax
  xor edx, edx
  wrmsr
2: pop rdx
  pop rcx
  pop rax
  iretq

# --- system calls: ud2 in ring 3; rax = number, rdi, rsi, rdx = arguments; result in rax; r8..r11 are
# lost. An exception, because it is the one way into ring 0 that every host gets right: on a paravirtual
# KVM, int n is an invalid opcode and syscall does not arrive in ring 0 (docs/quirks.md). ---
.global syscall_stub
syscall_stub:
  push rcx
  mov rcx, [rsp + 8]
  cmp word ptr [rcx], 0x0B0F
  jne 1f
  add qword ptr [rsp + 8], 2
  push rdx
  push rsi
  push rdi
  sub rsp, 8
  mov rcx, rdx
  mov rdx, rsi
  mov rsi, rdi
  mov rdi, rax
  call kernel_syscall
  add rsp, 8
  pop rdi
  pop rsi
  pop rdx
  pop rcx
  iretq
1: pop rcx                       # a real invalid opcode
  push 0
  mov edi, 6
  mov rsi, rsp
  call kernel_fault

# Waits for an interrupt with interrupts off on entry and exit; sti takes effect after hlt began.
.global halt_once
halt_once:
  sti
halt_at:
  hlt
  cli
  ret

# --- exceptions: vector in rdi, then the frame ---
.macro FAULT vector, has_code
fault_\vector:
  .if !\has_code
  push 0
  .endif
  mov edi, \vector
  mov rsi, rsp
  call kernel_fault
.endm
FAULT 0, 0
FAULT 3, 0
FAULT 8, 1
FAULT 14, 1
fault_13:
  cmp qword ptr [rsp + 8], offset try_wrmsr_at
  je 1f
  mov edi, 13
  mov rsi, rsp
  call kernel_fault
1: mov qword ptr [rsp + 8], offset try_wrmsr_failed
  add rsp, 8
  iretq

# edi = MSR, rsi = value: 1, or 0 if the MSR refused it with a general-protection fault.
.global try_wrmsr
try_wrmsr:
  mov ecx, edi
  mov eax, esi
  mov rdx, rsi
  shr rdx, 32
try_wrmsr_at:
  wrmsr
  mov eax, 1
  ret
try_wrmsr_failed:
  xor eax, eax
  ret
.section .rodata
.global fault_table
.balign 8
fault_table: .quad 0, fault_0, 3, fault_3, 6, syscall_stub, 8, fault_8, 13, fault_13, 14, fault_14

.section .bss
.balign 16384
.global kernel_stacks
kernel_stacks: .skip 16384 * 64
.section .data
.balign 8
.global starting_stack
starting_stack: .quad 0
.global sint_auto_eoi
sint_auto_eoi: .byte 0
.section .note.GNU-stack, "", @progbits
