import { barrierFor } from '../../src/orchestrator/worker/user-access.ts'

/** Why tests cannot run the programs of this clone as other users; `false` when they can. For `skip`. */
export const noOtherUsers: string | false = reason()

function reason(): string | false {
  if (process.getuid?.() !== 0) return 'optional: needs root, to run programs as other users'
  const barrier = barrierFor(65_534, process.execPath) ?? barrierFor(65_534, import.meta.dirname)
  return barrier === undefined ? false : `optional: the clone lies in ${barrier}, which other users may not enter`
}
