import { createReadStream, createWriteStream, renameSync, statSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { MeshError } from '../../core/errors.ts'
import { stateProblem } from '../../core/kit/disk.ts'
import { TAR_END, tarHead, tarPadding } from '../../core/kit/tar.ts'
import type { Context } from '../context.ts'
import { progress } from '../terminal.ts'
import { copyState, type Copied, MANIFEST, type Manifest, rolesIn, userOf } from './contents.ts'
import { WorkFolder } from './work.ts'

/** Writes the archive; `-` is standard output. @throws MeshError STATE_UNREADABLE, DISK_FULL */
export async function backUp({ state, version }: Context, file: string): Promise<Manifest> {
  // a device would be replaced
  if (file !== '-' && statSync(resolve(file), { throwIfNoEntry: false })?.isFile() === false)
    throw new MeshError('USAGE', { reason: `${file} is something else than a file`, remedy: 'Name a file.' })
  if (rolesIn(state).length === 0)
    throw new MeshError('STATE_UNREADABLE', {
      path: state,
      reason: 'no role has its state there',
      remedy: 'Name the state directory with --state.',
    })
  const place = file === '-' ? tmpdir() : dirname(resolve(file))
  using folder = WorkFolder.make(place, '.hedgerow-backup-')
  const work = folder.path
  try {
    progress('The state is being copied …')
    const roles = rolesIn(state)
    const copied = await copyState(state, roles, work)
    const isThere = (role: string) => copied.some(({ name }) => name.startsWith(`${role}/`))
    const files = Object.fromEntries(copied.map(({ name, size, sha256 }) => [name, { size, sha256 }]))
    const manifest: Manifest = {
      format: 1,
      version,
      host: hostname(),
      at: Date.now(),
      roles: roles.filter(isThere),
      files,
    }
    const archive = Readable.from(archiveOf(manifest, copied), { objectMode: false })
    if (file === '-') {
      await pipeline(archive, createGzip(), process.stdout, { end: false })
      return manifest
    }
    const draft = join(work, 'archive')
    // a name appears only with all of its bytes
    await pipeline(archive, createGzip(), createWriteStream(draft, { mode: 0o600, flags: 'wx', flush: true }))
    renameSync(draft, resolve(file))
    return manifest
  } catch (error) {
    throw error instanceof MeshError ? error : stateProblem(file === '-' ? place : resolve(file), error)
  }
}

async function* archiveOf(manifest: Manifest, copied: readonly Copied[]): AsyncIterable<Buffer> {
  const text = Buffer.from(`${JSON.stringify(manifest, undefined, 2)}\n`)
  yield tarHead({ name: MANIFEST, size: text.length, mode: 0o600, mtime: manifest.at / 1_000, user: '' })
  yield text
  yield tarPadding(text.length)
  for (const { name, path, size, mode, mtime, uid } of copied) {
    yield tarHead({ name, size, mode, mtime, user: userOf(uid) ?? '' })
    for await (const chunk of createReadStream(path)) yield chunk as Buffer
    yield tarPadding(size)
  }
  yield TAR_END
}
