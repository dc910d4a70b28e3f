import { readFile, writeFile } from 'node:fs/promises'

/** `net.ipv4.tcp_migrate_req` (Linux 5.14): what waits at a listener that is closed goes to another one of its address. */
const PATH = '/proc/sys/net/ipv4/tcp_migrate_req'

/**
 * Runs `close`, which closes listeners beside those of another process (SO_REUSEPORT), so that not even a connection that the
 * kernel has just queued is reset. Where the setting may not be changed, `closeWhenIdle` leaves a moment open.
 */
export async function migratingRequests(close: () => Promise<void>): Promise<void> {
  const wasOff = await turnOn().catch(() => false)
  try {
    await close()
  } finally {
    if (wasOff) await writeFile(PATH, '0').catch(() => undefined)
  }
}

async function turnOn(): Promise<boolean> {
  if ((await readFile(PATH, 'utf8')).trim() !== '0') return false
  await writeFile(PATH, '1')
  return true
}
