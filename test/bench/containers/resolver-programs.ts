import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { hasTool } from '../../../src/lab/system-tools.ts'

/* Static programs that look up a name as their library or language does, made here where there is what they need. */
export const FOLDER = resolve(import.meta.dirname, '../../../node_modules/.cache/hedgerow-resolvers')
const IN_C = `#include <stdio.h>
#include <sys/socket.h>
#include <netdb.h>
#include <arpa/inet.h>
int main(int n, char **argv) {
  struct addrinfo how = { .ai_socktype = SOCK_STREAM }, *found;
  int fault = getaddrinfo(argv[1], "8080", &how, &found);
  if (fault) { fprintf(stderr, "%s\\n", gai_strerror(fault)); return 1; }
  for (; found; found = found->ai_next) {
    char text[64];
    getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
    puts(text);
  }
  return 0;
}
`
const IN_GO = `package main

import ("fmt"; "net"; "os")

func main() {
	found, err := net.LookupHost(os.Args[1])
	if err != nil { fmt.Fprintln(os.Stderr, err); os.Exit(1) }
	for _, each := range found { fmt.Println(each) }
}
`

export interface ResolverProgram {
  what: string
  /** Absent: it could not be made, for this reason. */
  file?: string
  reason?: string
}

export function resolverPrograms(): ResolverProgram[] {
  mkdirSync(FOLDER, { recursive: true })
  writeFileSync(join(FOLDER, 'lookup.c'), IN_C)
  writeFileSync(join(FOLDER, 'lookup.go'), IN_GO)
  return [
    made('musl, static', 'musl', inMusl),
    made('Go, static', 'go', (file) => {
      const go = ['go', '/usr/local/go/bin/go'].find((each) => hasTool(each) || existsSync(each))
      if (go === undefined) return 'needs go'
      return said(go, ['build', '-o', file, 'lookup.go'], { CGO_ENABLED: '0' })
    }),
    made('glibc, static', 'glibc', (file) => said('gcc', ['-static', '-w', '-o', file, 'lookup.c'])),
  ]
}

/** Debian's packages, unpacked and not installed: its wrapper of gcc names folders of the machine. */
function inMusl(file: string): string | undefined {
  const root = join(FOLDER, 'root')
  if (!existsSync(root)) {
    const fault = said('apt-get', ['download', '-qq', 'musl', 'musl-dev'])
    if (fault !== undefined) return fault
    mkdirSync(root)
    for (const name of readdirSync(FOLDER).filter((each) => each.endsWith('.deb')))
      said('dpkg-deb', ['--extract', name, 'root'])
  }
  const triplet = process.arch === 'arm64' ? 'aarch64-linux-musl' : 'x86_64-linux-musl'
  const lib = (name: string) => join(root, 'usr/lib', triplet, name)
  const include = ['-nostdinc', '-isystem', join(root, 'usr/include', triplet)]
  const objects = [lib('crt1.o'), lib('crti.o'), 'lookup.c', lib('libc.a'), '-lgcc', lib('crtn.o')]
  return said('gcc', ['-static', '-no-pie', '-nostdlib', ...include, ...objects, '-o', file])
}

function made(what: string, name: string, make: (file: string) => string | undefined): ResolverProgram {
  const file = join(FOLDER, `lookup-${name}`)
  const reason = existsSync(file) ? undefined : make(file)
  return reason === undefined ? { what, file } : { what, reason }
}

/** Why it failed, in its own last line. */
function said(program: string, argv: string[], env: NodeJS.ProcessEnv = {}): string | undefined {
  const how = { cwd: FOLDER, env: { ...process.env, ...env }, encoding: 'utf8' } as const
  const { status, stderr, error } = spawnSync(program, argv, how)
  return status === 0 ? undefined : (error?.message ?? stderr.trim().split('\n').at(-1) ?? `code ${status}`)
}
