# From the PVH entry (32 bits, no paging) into 64-bit code, and the one interrupt handler.
.intel_syntax noprefix
.section .note.pvh, "a"
  .long 4, 4, 18                 # XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .long entry

.section .bss
.balign 4096
page_map: .skip 4096
page_directory: .skip 4096
low_pages: .skip 4096            # the first GiB by 2 MiB pages
stack: .skip 65536
stack_end:

.section .data
.balign 16
gdt: .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
gdt_pointer: .word 23
  .quad gdt

.section .text.start, "ax"
.code32
.global entry
entry:
  mov esp, offset stack_end
  mov eax, offset page_directory
  or eax, 3
  mov [page_map], eax
  mov eax, offset low_pages
  or eax, 3
  mov [page_directory], eax
  mov edi, offset low_pages
  mov eax, 0x83                  # present, writable, 2 MiB
  mov ecx, 512
1: mov [edi], eax
  add edi, 8
  add eax, 0x200000
  loop 1b
  mov eax, cr4
  or eax, 0x20                   # PAE
  mov cr4, eax
  mov eax, offset page_map
  mov cr3, eax
  mov ecx, 0xC0000080            # EFER.LME
  rdmsr
  or eax, 0x100
  wrmsr
  mov eax, cr0
  or eax, 0x80000001             # paging, protection
  mov cr0, eax
  lgdt [gdt_pointer]
  .byte 0xEA                     # far jump into 64-bit code
  .long start64
  .word 0x08
.code64
start64:
  mov ax, 0x10
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov rsp, offset stack_end
  call kernel_main

# SINT 2: counts, and ends the interrupt at the local APIC.
.global interrupt_entry
interrupt_entry:
  push rax
  push rcx
  push rdx
  inc qword ptr [interrupts]
  mov ecx, 0x80B                 # x2APIC EOI
  xor eax, eax
  xor edx, edx
  wrmsr
  pop rdx
  pop rcx
  pop rax
  iretq
.section .note.GNU-stack, "", @progbits
