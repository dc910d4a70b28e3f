import type { Api } from '../../live/api.ts'
import {
  changeOrganisation,
  createOrganisation,
  deleteOrganisation,
  type OrganisationRow,
  organisations,
  type Quota,
} from '../../live/people.ts'
import { namesIn, numberIn, textIn } from '../../model/entered.ts'
import { coresText, memoryText } from '../../model/text.ts'
import { may } from '../../model/who.ts'
import { Field, type Question, useDesk } from '../../parts/desk.tsx'
import { Sheet, useAnswer, Waiting } from '../../parts/sheet.tsx'

/** Organisations, what their services want, and how much they may. */
export function Organisations() {
  const { api, me, ask } = useDesk()
  const asked = useAnswer(organisations)
  if (asked.state !== 'answered') return <Waiting asked={asked} />
  const { answer, again } = asked
  const decides = may(me, 'mesh', 'mesh')
  return (
    <>
      {decides ? (
        <p class="actions">
          <button type="button" class="button small" onClick={() => ask(createQuestion(api, again))}>
            New organisation
          </button>
        </p>
      ) : undefined}
      <Sheet
        label="Organisations"
        rows={answer}
        keyOf={({ name }) => name}
        empty="There are none: everything is the administrator’s."
        columns={[
          { head: 'Organisation', cell: ({ name }) => <b>{name}</b> },
          { head: 'Namespaces', cell: ({ namespaces }) => namespaces.join(' ') || '–' },
          {
            head: 'Services',
            isExtra: true,
            cell: ({ wanted, quota }) => ofText(wanted.services, quota.services),
          },
          { head: 'Instances', cell: ({ wanted, quota }) => ofText(wanted.instances, quota.instances) },
          {
            head: 'Memory',
            isExtra: true,
            cell: ({ wanted, quota }) => ofText(memoryText(wanted.memoryMb), quota.memoryMb, memoryText),
          },
          {
            head: 'CPUs',
            isExtra: true,
            cell: ({ wanted, quota }) => ofText(coresText(wanted.vcpus), quota.vcpus, coresText),
          },
          ...(decides
            ? [
                {
                  head: '',
                  cell: (row: OrganisationRow) => (
                    <>
                      <button type="button" class="button small" onClick={() => ask(changeQuestion(api, row, again))}>
                        Change<span class="hidden"> {row.name}</span>
                      </button>
                      <button
                        type="button"
                        class="button small danger"
                        onClick={() => ask(deleteQuestion(api, row.name, again))}
                      >
                        Delete<span class="hidden"> {row.name}</span>
                      </button>
                    </>
                  ),
                },
              ]
            : []),
        ]}
      />
    </>
  )
}

function ofText(wanted: number | string, most: number | undefined, textOf: (most: number) => string = String): string {
  return most === undefined ? `${wanted}` : `${wanted} of ${textOf(most)}`
}

const QUOTA: readonly (readonly [keyof Quota, string, string])[] = [
  ['services', 'Services', '1'],
  ['instances', 'Instances', '1'],
  ['memoryMb', 'Memory in MB', '1'],
  ['vcpus', 'CPUs', 'any'],
]

function QuotaFields({ quota }: { quota: Quota }) {
  return (
    <fieldset class="entries">
      <legend>At most; without limit where nothing stands</legend>
      {QUOTA.map(([key, label, step]) => (
        <Field key={key} label={label}>
          <input class="field" type="number" name={key} min={0} step={step} defaultValue={String(quota[key] ?? '')} />
        </Field>
      ))}
    </fieldset>
  )
}

function quotaIn(entered: FormData): Quota {
  return Object.fromEntries(
    QUOTA.flatMap(([key]) => {
      const most = numberIn(entered, key)
      return most === undefined ? [] : [[key, most]]
    }),
  )
}

function Namespaces({ namespaces, hint }: { namespaces: readonly string[]; hint: string }) {
  return (
    <Field label="Namespaces" hint={hint}>
      <input
        class="field"
        name="namespaces"
        autocomplete="off"
        spellcheck={false}
        defaultValue={namespaces.join(' ')}
      />
    </Field>
  )
}

function createQuestion(api: Api, again: () => void): Question {
  return {
    title: 'New organisation',
    fields: (
      <>
        <Field label="Name">
          <input class="field" name="name" required autofocus autocomplete="off" spellcheck={false} />
        </Field>
        <Namespaces namespaces={[]} hint="With spaces between them; that of its name where nothing stands." />
        <QuotaFields quota={{}} />
      </>
    ),
    confirm: 'Create',
    act: async (entered) => {
      const namespaces = namesIn(entered, 'namespaces')
      const name = textIn(entered, 'name')
      await createOrganisation(api, {
        name,
        quota: quotaIn(entered),
        ...(namespaces.length === 0 ? {} : { namespaces }),
      })
      again()
      return `The organisation ${name} is created.`
    },
  }
}

function changeQuestion(api: Api, { name, namespaces, quota }: OrganisationRow, again: () => void): Question {
  return {
    title: `Change ${name}`,
    text: 'A quota that is lowered ends nothing; whoever gives a namespace away gives away the apps in it.',
    fields: (
      <>
        <Namespaces namespaces={namespaces} hint="With spaces between them." />
        <QuotaFields quota={quota} />
      </>
    ),
    confirm: 'Change',
    act: async (entered) => {
      await changeOrganisation(api, name, { namespaces: namesIn(entered, 'namespaces'), quota: quotaIn(entered) })
      again()
      return `${name} is changed.`
    },
  }
}

function deleteQuestion(api: Api, name: string, again: () => void): Question {
  return {
    title: `Delete ${name}`,
    text: 'Only one without apps, users and clusters is deleted.',
    confirm: 'Delete',
    isDanger: true,
    act: async () => {
      await deleteOrganisation(api, name)
      again()
      return `${name} is deleted.`
    },
  }
}
