import { readFile, writeFile } from 'node:fs/promises'
import type { KeptFile } from '../../src/core/kit/kept-file.ts'

/** Values of the machine's settings (sysctl) before the first agent of this node, by path below /proc/sys. */
export type SettingsBefore = Readonly<Record<string, string>>

/** Where they are kept for the agent after a killed one. */
export interface KeptSettings {
  readonly file: KeptFile
  /** Of this start of the machine: at the next one the kernel begins with its own settings. */
  readonly boot: string
}

/** Only these may be restored from a file. */
const PATH = /^\/proc\/sys\/net\/[a-z0-9_/]+$/

/**
 * The settings that host mode changes, which the last agent of a node restores. A killed agent restores nothing: what was
 * before it is read from its file.
 */
export class MachineSettings {
  readonly #before: Record<string, string>
  readonly #kept: KeptSettings | undefined

  /** `inherited`: what the agent before this one has said, which is still alive. */
  constructor(inherited?: SettingsBefore, kept?: KeptSettings) {
    this.#kept = kept
    this.#before = { ...(inherited ?? leftBehind(kept)) }
  }

  get before(): SettingsBefore {
    return this.#before
  }

  /** @throws the system's error, when it is off and may not be written */
  async switchOn(path: string): Promise<void> {
    const now = await readFile(path, 'utf8').catch(() => '1')
    if (now.trim() === '1') return
    this.#before[path] ??= now
    await this.#keep() // first: a kill may follow at once
    await writeFile(path, '1')
  }

  async restore(): Promise<void> {
    for (const [path, value] of Object.entries(this.#before)) {
      await writeFile(path, value)
      delete this.#before[path]
    }
    await this.#keep()
  }

  async #keep(): Promise<void> {
    await this.#kept?.file.put(JSON.stringify({ boot: this.#kept.boot, before: this.#before }))
  }
}

function leftBehind(kept: KeptSettings | undefined): SettingsBefore {
  const found = kept?.file.readJson() as { boot?: unknown; before?: unknown } | null | undefined
  if (kept === undefined || found?.boot !== kept.boot || typeof found.before !== 'object') return {}
  const entries = Object.entries(found.before ?? {}).filter(([path, value]) => PATH.test(path) && value === '0\n')
  return Object.fromEntries(entries)
}
