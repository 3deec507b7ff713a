"""Words that name nobody: those of the report grammar, and what cath-lab and echo reports are made of, English and French.

A capitalised word behind `Dr` is a name unless it is one of these; a word of a report that is none of them and rare is looked at.
"""

import re
import unicodedata

from deepcoro.angiography.phrases import LANGUAGES

_FUNCTION = """
a about above after all already also although an and any are as at away back be because been before being below between both but by can
cannot could did do does done down due during each either else even every few finally first for found from further given had has have he
her here him his how i if in into is it its itself just last less like made mainly many may might more most much must near neither next no
none nor not now of off on once one only onto or other others our out over own per perhaps same second see seen several shall she should
shows showed shown since so some still such take taken than that the their them then there these they third this those three through thus to
together too toward two under until unto up upon us used using very via was we well were what when where which while who whose will with
within without would yet you your four five six seven eight nine ten
afin ai ainsi alors apres assez au aucun aucune auparavant aussi autour autre autres aux avant avec avoir beaucoup bien c ca car ce ceci cela
celle celui ces cet cette chaque chez ci comme comment contre d dans de debut deja depuis derriere des desormais deux devant doit donc dont du
elle elles en encore enfin ensuite entre environ es est et etaient etait ete etre eu fait faite faites faits fois font fut hors il ils je
jusqu jusque l la laquelle le lequel les leur leurs lors lorsque lui m ma mais meme memes mes moins mon n ne ni non nos notre nous on ont ou
outre par parmi partir pas pendant peu peut plus plusieurs plutot pour pourra premier premiere pres presque puis qu quand que quel quelle
quelques qui quoi s sa sans sauf se selon sera ses seule seulement si sinon soit son sont sous suite sur surtout t ta tel telle tous tout toute
toutefois toutes tres trois troisieme trop un une vers voici voir vos votre vous y quatre cinq sept huit neuf dix
"""
_ANATOMY = """
acute angle anterior anterieur anterieure annulus aorta aortic aorte aortique apex apical arch artere arteres arteria arterial arteriel arteries
artery atrial atrium auricle auricular basal basilic bifurcation bifurcations bissectrice brachial branch branche branches bypass cardiac
cardiaque carotid chamber chambers circonflexe circulation circumflex cavity cavites cava collateral collaterale collaterales collateralite
collaterals conduit conus coronaire coronaires coronarien coronarienne coronary coronaries crux cusp cusps descendante descending diagonal
diagonale diagonales diagonals distal distale distales distally distaux droit droite droites endocardial epicardial femoral femorale fistula
free gauche gauches graft grafts great groin heart iliac inferior inferieur inferieure infundibulum inlet internal interne intermediate
intermediaire intermedius interventricular interventriculaire iva ivp lad lca lcx leaflet leaflets left lima lmca lumen lumiere mammary
mammaire marginal marginale marginales marginals median mid middle mitral mitrale moyen moyenne moyennes muscle myocarde myocardial myocardium
native natif native natives neck nodal node obtuse oblique om ostia ostial ostiale ostium outflow paroi parietal papillary patch pda perforator
pericardial pericarde pericardium plaque pontage pontages posterieur posterieure posterior posterolateral posterolaterale postero proximal
proximale proximales proximally proximaux pulmonaire pulmonary radial radiale ramus rca retroventriculaire right ring root rca rima rpl rv
rvg saphenous saphene septal septale septales septum segment segments segmental segmentaire sinus spider subclavian sub-clavian superior
superieur superieure svg systemic territoire territory thoracic tract tricuspid tricuspide trifurcation tronc trunk tree ulnar valve valves
valvular valvulaire vaisseau vaisseaux vein veine veines vena ventricle ventricles ventricular ventricule ventriculaire vessel vessels wall walls
lateral laterale septo antero inferolateral anterolateral cx cd tcg tca vg vd od og lv la ra rvot lvot pl pls plv rpda rplv lpl lpda ri d om1
om2 om3 d1 d2 d3 plad mlad dlad prca mrca drca plcx mlcx dlcx lm lmt ao ap pa vci vcs crx mg rvp rvd
"""
_FINDINGS = """
abnormal abnormalities abnormality absence absent absente access accident acceleration adequate akinesia akinesie akinetic amplatz anatomical
anatomically anatomique anatomy aneurism aneurysm aneurysmal anevrisme anevrysme angina angine angiogram angiograms angiographic angiographically
angiographie angiographique angiography angioplastie angioplasty anomalie anomalies anomalous apparent apparently appearance appears area
arrhythmia arrhythmias aspect aspects aspiration assessed assessment asymptomatic atherectomy atherome atheromatose atheromatous
atherosclerosis atherosclerotic athero atheroma attempt attempted average balanced balloon ballon ballonnet balloons bare bas basse beat
beats berges bicuspid bidirectional biplane block blocked blood bon bonne bonnes borderline bovine bridge bridging brisk broad calcific
calcification calcifications calcified calcifie calcifiee calcifiees calcium calibre caliber catheter catheterisation catheterization catheters
catheterisme central centre change changes characterised chronic chronically chronique chroniques class classe clear clinical clinically clinique
clopidogrel closure clot collapse collapsed compared compatible complete completed completely complex complexe complication complications concentric
conclusion conclusions conditions conduite connu connue connues consent considered consistent continue continued contour contours contractilite
contractility contraction contrast contraste control controle corkscrew correction course covered critical critique cross crossed crossing cto
culprit coupable curve cutting cystic d'allure damage deb decrease decreased defect defects deficit degenerated degenerative degree degrees delay
delayed demonstrate demonstrated demonstrates dense densely deployed deployment description detail details developed diabetes diabete diabetic
diagnosis diagnostic diagnostique diameter diametre diastole diastolic diastolique diffuse diffusely diffus diffuses dilatation dilated dilate dilatee
dilation direct discharge discrete disease diseased dissection dominance dominant dominante dominates donor doppler dose double drop drug duplex
duration dyskinesia dyskinesie dyskinetic dysfunction dysfonction early eccentric excentrique echo ectasia ectasie ectatic effective ejection
elective electively elevated elevation eluting embolic embolisation engaged enlarged entire equal equilibre equivalent estimated estimee etat etendue
evaluation event events evidence evident eviden evolution examination examen excellent exercise exclude existing expansion expanded experience
extensive extension extent external extra faible faibles failed failure false favorable favourable features femme fibrillation fill filling fills filled
final fistule flow flux focal focale focally follow followed following fonction force form fraction fracture french function functional
fonctionnel future gadolinium gauge general generalised giant global globale globally good grade grades gradient gradients grossly guide guided
guidewire guiding guidecath haemodynamic haemodynamically hazy heavily heavy helical hematoma hemodynamic hemodynamically hemodynamique hemodynamics
hemostasis heparin heparine heterogeneous high history homme homogeneous hyperemia hyperaemia hypertension hypertrophie hypertrophy hypertrophic
hypokinesia hypokinesie hypokinetic hypotension identified image images imaging immediate impaired impella implant implantation implanted important
importante importantes importants impression improved improvement incidental incomplete increase increased indication indications indeterminate
index indiqu indirect infarct infarction infarctus inflated inflation inflations initial injection injections insertion inspection insufficiency
insuffisance insufficient intact intermittent intervention interventional interventions interventionnel intima intimal intra intraluminal
intravascular invasive invasif irregular irregularities irregularite irregularites irregularity ischemia ischaemia ischemic ischemie ischemique ischaemic
isolated isolee jailed jet jugular kissing known lac laminar large larges late lesion lesions lesional lesionnel level leger legere legeres
length limited limite limites line lipid local localised localized located location long longs longue longues longitudinal loss low lower luminal
maintained major majeur majeure majority male management managed maximal maximum measured measurement measures mean mechanical medial medically medical
medicament metal metallic method microcatheter mild mildly milieu minimal minimale minimally minime minimes minor mineur mineure missing mixed mobile
moderate moderately moderee moderees modere moderes mode monitor monitoring morphology motion mouvement multi multiple multiples multivessel
mural myocardite narrow narrowed narrowing narrowings negative negatif negligible new niveau nodular noncritical non-dominant nonobstructive normal
normale normales normally normaux nonsignificant notable note noted number numerous nstemi observed obstructed obstruction obstructive occluded
occlude occlusion occlusions occlusive onset open opacifie opacification opacified optimal optimisation optimization order origin origine originates
outcome overall overlapping oversize pacing pain partial partially partiel partielle passage past patent patency patente pathology pathologie patient
patiente patients pattern peak perfusion performed perforation pericarditis peripheral permeable permeables permeabilite persistent persistante
placed placement placed plan pleine point poor poorly position positive possible possibly post postdilatation postdilated postdilation poststenotic
posttraumatic potential pre predilatation predilated predilation predominant predominantly presence present presente presents preservation preserved
preservee pressure pression pressions previous previously primary principal principale principally prior probable probably procedure procedural
process prognosis progression progressive prolapse prolapsus prominent prosthesis prosthetic proximalement puncture ponction qualitative quality
quantitative radiation range rapid rapide rapport rate ratio raw reading reasonable recanalisation recanalization recanalised recanalized recent recente
recommendation recommendations recommande reconstitution reduced reduction reduite reference referred reflow regional regionale region regions
regurgitation related relation relatively remaining remainder remodelage remodeling reocclusion repair repeat replacement rest residual residuel
residuelle residuel resistance response restenose restenosis result resultat resultats results retrecissement retrecissements retrograde revascularisation
revascularization reveals review rhythm rotablation rotational ruptured rythme saved scar score scores sections selective selectively septique severe
severely severes severite severity shape sheath short shunt side significant significantly significatif significative significativement
significatives signe signs similar single site sites size sized small smooth smoothly solitary spasm spasme spontaneous stable standard start
static status stemi stenose stenoses stenosed stenosee stenosis stenotic stenotique stent stente stented stenting stents stress structure structures
subacute suboptimal subtotal subtotale successful successfully succes suggest suggestive suggests suitable suivi summary support surface surgery
surgical suspect suspected symptom symptomatic symptoms syndrome synthese systole systolic systolique systematic tandem tapered technical technique
technically temporary term terminal test therapy thickening thickened thin thrombectomy thrombi thrombose thrombosed thrombosis thrombotic
thrombus tibial timi tissue tolerated tort tortueux tortueuse tortuosity tortuosite tortuous total totale totalement totally touch trace traces
transient transplant transradial traitement traite traitee treated treatment trivial truncal tubular tubulaire type types ulcerated ulceration ulcere
ultrasound unable unchanged undersized uncomplicated unremarkable unsuccessful unstable upper urgent usual valvuloplasty variant variante variation
various velocity ventriculogram ventriculographie ventriculography view views incidence incidences visible visualised visualized visually volume volumes
wide widely wire wires width wrap xience zone zones coronarographie coronarography cineangiography hyperemie nitroglycerin nitroglycerine adenosine
aspirin aspirine ticagrelor prasugrel bivalirudin contrastee perle stemi acs sca imc rvo tavi tavr imr ffr ifr rfr ivus oct qca mla mld dfr cfr
des bms dcb dapt poba rota pci icp ptca cabg pac atc isr lvef fevg fe ef ed es lvedp ptdvg svo2 syntax medina ccs nyha killip canadian iabp
ecmo vad tte tee ett eto ecg st lbbb rbbb af sr hr bpm fc ta bp pas pad mmhg cm mm ml kg mg ug mcg fps atm bar hz min sec seconds minutes hours
days weeks months years ans an mois jours heures semaines year month week day daily hour minute rao lao cra cau cranial caudal craniale caudale
crane ap lat kv ma mgy gycm2 unit units ui iu fr jl jr ebu xb al ar mp ikari pigtail judkins terumo tiger cordis medtronic boston abbott philips siemens
toshiba canon ge shimadzu biotronik orsiro synergy resolute onyx promus ultimaster promedica stentys microvention runthrough sion fielder gaia bmw
confianza pilot balance whisper choice finecross corsair turnpike guideliner guidezilla
"""
_CLINIC = """
hospital hopital clinic clinique lab laboratory laboratoire report rapport reports study studies etude room salle ward unite department departement
service name nom prenom doctor docteur physician medecin cardiologist cardiologue operator operators operateur operateurs nurse infirmiere
infirmier technologist technologue resident residente fellow assistant assistante attending referring referent signed signe signee dictated dicte by
electronically electroniquement read lu reviewed revu verified verifie interpreted interprete performed effectue realise realisee date dates time
heure le age sex sexe male female homme femme man woman old monsieur madame mrs mr ms mme mlle dr dre prof professor professeur md frcpc age's
january february march april june july august september october november december janvier fevrier mars avril mai juin juillet aout septembre
octobre novembre decembre monday tuesday wednesday thursday friday saturday sunday lundi mardi mercredi jeudi vendredi samedi dimanche yes no oui
dossier record chart number numero id accession uid patient vu vue probe lvgram mid
unknown inconnu inconnue pci poci postpci inference train val film films clip clips video videos cine frame frames run runs series serie
angiogramme comparison comparaison technique antecedents histoire facteurs risque risk factors smoking tabac tabagisme dyslipidemia dyslipidemie
hta htn cholesterol family familiale familial history obesity obesite renal renale kidney rein dialysis dialyse copd mpoc stroke avc tia ait
anticoagulation anticoagulant antiplatelet antiplaquettaire beta bloqueur blocker statin statine medication medications medicaments allergy allergie
allergies none aucun palpitations dyspnea dyspnee syncope chest thoracique douleur douleurs thoraciques typical atypical typique atypique
"""


def normal_form(word: str) -> str:
    """Lower case without accents: `Sténose` and `STENOSE` are one word."""
    return "".join(
        letter
        for letter in unicodedata.normalize("NFKD", word.casefold())
        if not unicodedata.combining(letter)
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", normal_form(text)))


def _grammar() -> set[str]:
    """Every word that a report of the grammar can hold."""
    words: set[str] = set()
    for language in LANGUAGES:
        texts = [template for templates in language.templates.values() for template in templates]
        texts += [name for names in language.segments.values() for name in names]
        texts += [*language.severities.values(), *language.grades.values(), *language.extents]
        for text in texts:
            words |= _words(re.sub(r"{\w+}", " ", text))
    return words


FINDING_WORDS = frozenset(_grammar() | _words(_ANATOMY))
"""Never a name, not even behind a title: what reports say of vessels."""
KNOWN_WORDS = FINDING_WORDS | _words(_FUNCTION) | _words(_FINDINGS) | _words(_CLINIC)
"""All words that need no look."""
