import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { delimiter, join } from 'node:path'

/** What tests and the demo call, and the Debian package it comes in. */
const PACKAGE_OF: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  nft: 'nftables',
  dig: 'dnsutils',
  curl: 'curl',
  conntrack: 'conntrack',
  ps: 'procps',
}

export function missingTools(): string[] {
  return Object.keys(PACKAGE_OF).filter((tool) => !hasTool(tool))
}

export function hasTool(tool: string): boolean {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin']
  return folders.some((folder) => existsSync(join(folder, tool)))
}

/** Installs what is missing where that is possible: as root, with apt-get. Says what it does, and why when it cannot. */
export function installTools(missing: readonly string[], say: (line: string) => void): void {
  if (missing.length === 0) return
  const packages = [...new Set(missing.map((tool) => PACKAGE_OF[tool] ?? tool))]
  const command = `apt-get install -y --no-install-recommends ${packages.join(' ')}`
  if (process.getuid?.() !== 0 || !hasTool('apt-get')) {
    say(`missing ${missing.join(', ')}; get them with: ${command} (as root, on Debian or Ubuntu)`)
    return
  }
  say(`missing ${missing.join(', ')}: ${command}`)
  if (aptGet(command) !== 0 && (aptGet('apt-get update') !== 0 || aptGet(command) !== 0)) say('apt-get failed')
}

function aptGet(command: string): number | null {
  const [file = '', ...args] = command.split(' ')
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const { status, stderr } = spawnSync(file, args, { env, encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] })
  if (status !== 0) process.stderr.write(stderr)
  return status
}

/** Where `hedgerow up --listen 127.0.0.1:<base>` finds what it takes: three ports in a row, and more ten above. */
export async function freeBase(from = 7_470): Promise<number> {
  for (let base = from; base < from + 2_000; base += 20) {
    const free = await Promise.all([0, 1, 2, 10, 11, 12].map((offset) => isFree(base + offset)))
    if (free.every(Boolean)) return base
  }
  throw new Error(`no free ports between ${from} and ${from + 2_000} on 127.0.0.1`)
}

const given = new Set<number>()

/**
 * A port of 127.0.0.1, free by TCP and UDP, that stays free while what listened on it is down: below those that the
 * kernel gives to connections, and given once per process.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 12_000 + Math.floor(Math.random() * 8_000)
    if (given.has(port) || !(await isFree(port))) continue
    given.add(port)
    return port
  }
}

async function isFree(port: number): Promise<boolean> {
  return (await isFreeByTcp(port)) && (await isFreeByUdp(port))
}

function isFreeByTcp(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.on('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

function isFreeByUdp(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4')
    socket.on('error', () => socket.close(() => resolve(false)))
    socket.bind(port, '127.0.0.1', () => socket.close(() => resolve(true)))
  })
}
