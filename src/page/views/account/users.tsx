import type { Api } from '../../live/api.ts'
import { changeUser, createUser, deleteUser, setPassword, type UserRow, users } from '../../live/people.ts'
import { textIn } from '../../model/entered.ts'
import { whenText } from '../../model/text.ts'
import { type Grant, grantIn, grantText, may, type Me } from '../../model/who.ts'
import { Field, type Question, useDesk } from '../../parts/desk.tsx'
import { Sheet, useAnswer, Waiting } from '../../parts/sheet.tsx'
import { NewPassword, raw } from './me.tsx'

/** Users and their roles, of the organisations that one administers. */
export function Users({ now }: { now: number }) {
  const { api, me, ask } = useDesk()
  const asked = useAnswer(users)
  if (asked.state !== 'answered') return <Waiting asked={asked} />
  const { answer, again } = asked
  return (
    <>
      <p class="actions">
        <button type="button" class="button small" onClick={() => ask(createQuestion(api, me, again))}>
          New user
        </button>
      </p>
      <Sheet
        label="Users"
        rows={answer}
        keyOf={({ name }) => name}
        empty="There are none: only the credential of the root."
        columns={[
          { head: 'User', cell: ({ name }) => <b>{name}</b> },
          { head: 'Of', isExtra: true, cell: ({ organisation }) => organisation ?? 'the mesh' },
          { head: 'Roles', cell: ({ grants }) => grants.map(grantText).join(', ') || 'none' },
          { head: 'Password', isExtra: true, cell: ({ hasPassword }) => (hasPassword ? 'yes' : 'none') },
          { head: 'Since', isExtra: true, cell: ({ createdAt }) => whenText(createdAt, now) },
          { head: '', cell: (row) => <UserActions row={row} again={again} /> },
        ]}
      />
    </>
  )
}

function UserActions({ row, again }: { row: UserRow; again: () => void }) {
  const { api, me, ask } = useDesk()
  const of = row.organisation === undefined ? 'mesh' : { organisation: row.organisation }
  const decides = may(me, 'people', of) && row.name !== me?.user
  const buttons: [string, () => Question][] = [
    ['Roles', () => rolesQuestion(api, me, row, again)],
    ['Password', () => passwordQuestion(api, row.name)],
    ['Delete', () => deleteQuestion(api, row.name, again)],
  ]
  return (
    <>
      {(decides ? buttons : []).map(([text, question]) => (
        <button
          key={text}
          type="button"
          class={text === 'Delete' ? 'button small danger' : 'button small'}
          onClick={() => ask(question())}
        >
          {text}
          <span class="hidden"> of {row.name}</span>
        </button>
      ))}
    </>
  )
}

const ROLES: readonly Grant['role'][] = [
  'organisation-administrator',
  'application-provider',
  'infrastructure-provider',
  'viewer',
]

/** Every role that whoever looks may give. */
function grantsOf(me: Me | undefined): Grant[] {
  const own = me?.organisations.filter(({ permissions }) => permissions.includes('people')) ?? []
  return [
    ...own.flatMap(({ name }) => ROLES.map((role): Grant => ({ role, organisation: name }))),
    ...(me?.isAdministrator === true ? [{ role: 'administrator' } as const] : []),
  ]
}

const keyOf = ({ role, organisation }: Grant) => (organisation === undefined ? role : `${role}@${organisation}`)

function createQuestion(api: Api, me: Me | undefined, again: () => void): Question {
  const own = me?.organisations.filter(({ permissions }) => permissions.includes('people')) ?? []
  return {
    title: 'New user',
    fields: (
      <>
        <Field label="Name">
          <input class="field" name="name" required autofocus autocomplete="off" spellcheck={false} />
        </Field>
        <Field label="Organisation" hint="Its administrators may give it a password and delete it.">
          <select class="field" name="organisation">
            {me?.isAdministrator === true ? <option value="">none: of the mesh</option> : undefined}
            {own.map(({ name }) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </Field>
        <Field label="Role">
          <select class="field" name="grant">
            <option value="">none yet</option>
            {grantsOf(me).map((grant) => (
              <option key={keyOf(grant)} value={keyOf(grant)}>
                {grantText(grant)}
              </option>
            ))}
          </select>
        </Field>
        <NewPassword />
      </>
    ),
    confirm: 'Create',
    act: async (entered) => {
      const name = textIn(entered, 'name')
      const organisation = textIn(entered, 'organisation')
      const grant = grantIn(textIn(entered, 'grant'))
      await createUser(api, {
        name,
        grants: grant === undefined ? [] : [grant],
        password: raw(entered, 'password'),
        ...(organisation === '' ? {} : { organisation }),
      })
      again()
      return `The user ${name} is created.`
    },
  }
}

function rolesQuestion(api: Api, me: Me | undefined, { name, grants }: UserRow, again: () => void): Question {
  const has = new Set(grants.map(keyOf))
  const offered = new Map([...grants, ...grantsOf(me)].map((grant) => [keyOf(grant), grant]))
  return {
    title: `Roles of ${name}`,
    text: 'A role that is taken counts at once, also in all tokens and sessions.',
    fields: (
      <fieldset class="entries one">
        <legend class="hidden">Roles</legend>
        {[...offered].map(([key, grant]) => (
          <label key={key} class="tick">
            <input type="checkbox" name="grant" value={key} defaultChecked={has.has(key)} /> {grantText(grant)}
          </label>
        ))}
      </fieldset>
    ),
    confirm: 'Change',
    act: async (entered) => {
      const chosen = new Set(entered.getAll('grant').map(String))
      const some = (fits: (key: string) => boolean) => [...offered].flatMap(([key, one]) => (fits(key) ? [one] : []))
      await changeUser(api, name, {
        add: some((key) => chosen.has(key) && !has.has(key)),
        remove: some((key) => has.has(key) && !chosen.has(key)),
      })
      again()
      return `The roles of ${name} are changed.`
    },
  }
}

function passwordQuestion(api: Api, name: string): Question {
  return {
    title: `Password of ${name}`,
    text: 'All of its sessions end.',
    fields: <NewPassword />,
    confirm: 'Change',
    act: async (entered) => {
      await setPassword(api, name, { password: raw(entered, 'password') })
      return `${name} has another password.`
    },
  }
}

function deleteQuestion(api: Api, name: string, again: () => void): Question {
  return {
    title: `Delete ${name}`,
    text: 'Its tokens are deleted with it, and its sessions end.',
    confirm: 'Delete',
    isDanger: true,
    act: async () => {
      await deleteUser(api, name)
      again()
      return `${name} is deleted.`
    },
  }
}
