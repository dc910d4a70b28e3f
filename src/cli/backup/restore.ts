import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
  closeSync,
  fsyncSync,
  openSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { createGunzip } from 'node:zlib'
import { MeshError } from '../../core/errors.ts'
import { stateProblem } from '../../core/kit/disk.ts'
import { readTar, type TarEntry } from '../../core/kit/tar.ts'
import type { Context } from '../context.ts'
import { askRole, ROLES, type RoleName } from '../roles-here.ts'
import { progress, note } from '../terminal.ts'
import { idsOf, MANIFEST, type Manifest, SAFE_NAME } from './contents.ts'
import { WorkFolder } from './work.ts'

export interface RestoreOptions {
  /** Only looks whether it is whole. */
  isCheck: boolean
  /** State that is there is moved aside. */
  isForced: boolean
}

/** @throws MeshError STATE_CORRUPT, STATE_UNREADABLE, DISK_FULL, USAGE */
export async function restore(here: Context, file: string, { isCheck, isForced }: RestoreOptions): Promise<Manifest> {
  // on the same file system as the state, so that a role appears at once
  using folder = WorkFolder.make(isCheck ? tmpdir() : here.state, isCheck ? 'hedgerow-restore-' : '.restore-')
  progress('The archive is being read …')
  const unpacked = await unpack(resolve(file), folder.path)
  if (!isCheck) await place(here, { ...unpacked, work: folder.path, isForced })
  return unpacked.manifest
}

interface Unpacked {
  manifest: Manifest
  /** By role. */
  owners: Map<string, string>
}

/** Every file of the archive below `work`, each compared with the manifest. @throws MeshError STATE_CORRUPT, STATE_UNREADABLE, DISK_FULL */
async function unpack(file: string, work: string): Promise<Unpacked> {
  const owners = new Map<string, string>()
  let manifest: Manifest | undefined
  const left = new Map<string, Manifest['files'][string]>()
  try {
    const compressed = createReadStream(file)
    const plain = createGunzip()
    compressed.on('error', (error) => plain.destroy(error))
    for await (const entry of readTar(compressed.pipe(plain) as AsyncIterable<Buffer>)) {
      if (manifest === undefined) {
        manifest = await manifestIn(entry, file)
        for (const [name, facts] of Object.entries(manifest.files)) left.set(name, facts)
        continue
      }
      const facts = left.get(entry.name)
      if (facts === undefined || !SAFE_NAME.test(entry.name)) throw damaged(file, `it holds ${entry.name}`)
      const sha256 = await write(entry, join(work, entry.name))
      if (sha256 !== facts.sha256) throw damaged(file, `${entry.name} has changed`)
      left.delete(entry.name)
      owners.set(entry.name.split('/')[0] ?? '', entry.user)
    }
    plain.destroy()
  } catch (error) {
    throw asProblem(file, work, error)
  }
  if (manifest === undefined) throw damaged(file, 'it is empty')
  const [missing] = left.keys()
  if (missing !== undefined) throw damaged(file, `${missing} is missing`)
  for (const name of Object.keys(manifest.files).filter((one) => one.endsWith('.db')))
    checkDatabase(file, join(work, name))
  return { manifest, owners }
}

async function manifestIn(entry: TarEntry, file: string): Promise<Manifest> {
  const not = () => damaged(file, 'it is not an archive of `hedgerow backup`')
  if (entry.name !== MANIFEST || entry.size > 1_048_576) throw not()
  const parts: Buffer[] = []
  for await (const part of entry.body) parts.push(part)
  let manifest: Partial<Manifest>
  try {
    manifest = JSON.parse(Buffer.concat(parts).toString('utf8')) as Partial<Manifest>
  } catch {
    throw not()
  }
  if (manifest.format !== 1)
    throw new MeshError('STATE_CORRUPT', {
      path: file,
      reason: `its format is ${String(manifest.format)}`,
      remedy: 'Restore it with the version of hedgerow that made it, or a newer one.',
    })
  const { roles, files } = manifest
  if (!Array.isArray(roles) || typeof files !== 'object' || files === null) throw not()
  const isFilled = (role: RoleName) => Object.keys(files).some((name) => name.startsWith(`${role}/`))
  if (!roles.every((role) => ROLES.includes(role) && isFilled(role))) throw not()
  return manifest as Manifest
}

async function write({ body }: TarEntry, path: string): Promise<string> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const hash = createHash('sha256')
  const fd = openSync(path, 'wx', 0o600)
  try {
    for await (const chunk of body) {
      hash.update(chunk)
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at)
    }
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  return hash.digest('hex')
}

function checkDatabase(file: string, path: string): void {
  try {
    const database = new DatabaseSync(path, { readOnly: true })
    const [answer] = database.prepare('PRAGMA integrity_check').all() as { integrity_check: string }[]
    database.close()
    for (const beside of ['-wal', '-shm']) rmSync(`${path}${beside}`, { force: true }) // made by looking
    if (answer?.integrity_check !== 'ok') throw new Error(answer?.integrity_check)
  } catch (cause) {
    throw new MeshError('STATE_CORRUPT', { path: file, reason: 'a database in it is damaged' }, { cause })
  }
}

interface Placing extends Unpacked {
  work: string
  isForced: boolean
}

/** Each role in one step. @throws MeshError USAGE when a role runs, or has state and that is not to be moved aside */
async function place({ state }: Context, { manifest, owners, work, isForced }: Placing): Promise<void> {
  for (const role of manifest.roles) if (await isRunning(state, role)) throw running(role)
  const there = manifest.roles.filter((role) => isFilled(join(state, role)))
  if (there.length > 0 && !isForced)
    throw new MeshError('USAGE', {
      reason: `there is state of ${there.join(', ')} in ${state}`,
      remedy: 'Move it away, or pass --force, which does that.',
    })
  const former = join(state, `before-restore-${new Date().toISOString().replaceAll(/[:.]/g, '-')}`)
  try {
    for (const role of manifest.roles) own(join(work, role), ownerOf(state, role, owners.get(role)))
    if (there.length > 0) mkdirSync(former, { mode: 0o700 })
    for (const role of manifest.roles) {
      if (there.includes(role)) renameSync(join(state, role), join(former, role))
      else rmSync(join(state, role), { recursive: true, force: true }) // an empty one, as systemd makes it
      renameSync(join(work, role), join(state, role))
    }
  } catch (error) {
    throw stateProblem(state, error)
  }
  if (there.length > 0) note(`What was there is in ${former}.`)
}

async function isRunning(state: string, role: RoleName): Promise<boolean> {
  return await askRole({ state }, role, '/status').then(
    () => true,
    () => false,
  )
}

function isFilled(path: string): boolean {
  return existsSync(path) && readdirSync(path).length > 0
}

interface Owner {
  uid: number
  gid: number
}

/** Who is to own it: whoever owns what is there, else the user of that name; nobody but root can give files away. */
function ownerOf(state: string, role: RoleName, user: string | undefined): Owner | undefined {
  if (process.getuid?.() !== 0) return undefined
  const there = join(state, role)
  if (existsSync(there)) return statSync(there)
  return user === undefined || user === '' ? undefined : idsOf(user)
}

function own(path: string, owner: Owner | undefined): void {
  chmodSync(path, 0o700)
  if (owner === undefined) return
  chownSync(path, owner.uid, owner.gid)
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const inner = join(path, entry.name)
    if (entry.isDirectory()) own(inner, owner)
    else chownSync(inner, owner.uid, owner.gid)
  }
}

function running(role: RoleName): MeshError {
  return new MeshError('USAGE', {
    reason: `the ${role} is running with this state directory`,
    remedy: `Stop it first, for example with \`systemctl stop hedgerow-${role}\`.`,
  })
}

function damaged(path: string, reason: string): MeshError {
  return new MeshError('STATE_CORRUPT', { path, reason, remedy: 'Nothing was changed. Use another backup.' })
}

function asProblem(file: string, work: string, error: unknown): MeshError {
  if (error instanceof MeshError) return error
  const { code = '', path } = error as NodeJS.ErrnoException
  if (error instanceof RangeError || code.startsWith('Z_')) return damaged(file, (error as Error).message)
  if (path === file)
    return new MeshError('USAGE', { file, remedy: 'Name an archive that you can read.' }, { cause: error })
  return stateProblem(work, error)
}
