import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

/** Carried in the environment of everything the demo starts, instances too, so that all of it can be found and ended. */
export const MARK = 'DEMO_OF_HEDGEROW'

/** Ends every process that carries the mark; only a node's instances when `node` is given. */
export async function endMarked(mark: string, node?: string): Promise<void> {
  for (let round = 0; round < 10; round += 1) {
    const pids = marked(mark, node)
    if (pids.length === 0) return
    for (const pid of pids) kill(pid)
    await sleep(20)
  }
}

function marked(mark: string, node: string | undefined): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && pid !== process.pid)
    .filter((pid) => {
      const environment = environmentOf(pid)
      const isOfNode = environment.some((entry) => /^HEDGEROW_NODE=(.*\/)?/.exec(entry)?.[0] + (node ?? '') === entry)
      return environment.includes(`${MARK}=${mark}`) && (node === undefined || isOfNode)
    })
}

/** Empty for a process of somebody else's, one that ended, or a zombie. */
function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
  } catch {
    return []
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // it ended by itself
  }
}
